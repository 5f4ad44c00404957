"""Two small networks trained from scratch: a plain CNN and a residual network.

Both shrink the image early, so that an epoch takes minutes on two CPU cores.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from deepbloom.data.preprocessing import Preprocessing
from deepbloom.models.registry import architecture

SIZE = 144
"""Side of their images in pixels. On a small budget, more epochs teach more than more pixels."""


@architecture(
    "scratch_cnn",
    head="fc",
    target_layer="block3",
    description="three convolutions with pooling, two fully connected layers",
    preprocessing=Preprocessing(SIZE),
)
def scratch_cnn(num_classes: int) -> nn.Sequential:
    """Return a plain CNN: three blocks of convolution and pooling, then two fully connected layers.

    An image of 144 x 144 pixels becomes maps of 36, 18 and 9 pixels; any other size of at least 16 works as well.

    Parameters
    ----------
    num_classes : int
    """
    return nn.Sequential(
        OrderedDict(
            block1=_conv_pool(3, 32, kernel_size=5, stride=2),
            block2=_conv_pool(32, 64),
            block3=_conv_pool(64, 192),
            avgpool=nn.AdaptiveAvgPool2d(4),
            flatten=nn.Flatten(),
            hidden=nn.Sequential(nn.Linear(192 * 4 * 4, 592), nn.ReLU(), nn.Dropout(0.5)),
            fc=nn.Linear(592, num_classes),
        )
    )


@architecture(
    "mini_resnet",
    head="fc",
    target_layer="layer4",
    description="six residual blocks y = F(x) + x",
    preprocessing=Preprocessing(SIZE),
)
def mini_resnet(num_classes: int) -> nn.Sequential:
    """Return a small residual network: a strided stem, then stages of 36, 18, 9 and 5 pixels (for 144 x 144).

    Pooling halves the maps before a stage: the strided shortcuts of He et al. (2016) skip three of four pixels and
    learn less from few images.

    Parameters
    ----------
    num_classes : int
    """
    return nn.Sequential(
        OrderedDict(
            stem=_conv_pool(3, 32, kernel_size=5, stride=2),
            layer1=ResidualBlock(32, 32),
            layer2=nn.Sequential(_halve(), ResidualBlock(32, 96)),
            layer3=nn.Sequential(_halve(), ResidualBlock(96, 192), ResidualBlock(192, 192)),
            layer4=nn.Sequential(_halve(), ResidualBlock(192, 280), ResidualBlock(280, 280)),
            maxpool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            norm=nn.BatchNorm1d(280),  # maxima are large: without it, the first loss is above ln C
            dropout=nn.Dropout(0.3),
            fc=nn.Linear(280, num_classes),
        )
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, weights for their channels, and a shortcut: y = ReLU(F(x) + x).

    Where the number of channels changes, x passes a 1x1 convolution (He et al. 2016, https://arxiv.org/abs/1512.03385,
    equations 1 and 2).

    Parameters
    ----------
    in_channels, out_channels : int
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(out_channels)  # F(x) = 0 at first: https://arxiv.org/abs/1706.02677, section 5.1
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            last,
            SqueezeExcitation(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a weight in (0, 1) that depends on the means of all channels.

    Hu et al. 2018, https://arxiv.org/abs/1709.01507, equations 2 to 4.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, channels // 8)
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        weights: Tensor = self.weights(x)
        return x * weights


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, padding=1)


def _conv_pool(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        _halve(),
        nn.BatchNorm2d(out_channels),  # after the pooling: a quarter of the work on the large early maps
        nn.ReLU(),
    )
