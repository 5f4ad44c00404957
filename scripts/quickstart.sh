#!/usr/bin/env bash
# Train three networks on drawn flowers, show where they look, and compare them. Nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
out=outputs/quickstart

deepbloom train -m model=scratch_cnn,mini_resnet,efficientnet_lite0_partial train.feature_copies=2 \
    output_dir="$out"'/runs/${model.name}'
for model in mini_resnet efficientnet_lite0_partial; do
    deepbloom gradcam ckpt="$out/runs/$model" image=sample output_dir="$out/heatmaps/$model"
done
deepbloom report runs="$out/runs" output_dir="$out/report"

echo
echo "Heatmaps    $out/heatmaps"
echo "Comparison  $out/report/report.html"
