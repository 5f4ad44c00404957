"""A page on this machine where one drops a picture and sees what networks answer and where they look."""
