"""A page on this machine where one drops an image and sees what networks answer and where they look."""
