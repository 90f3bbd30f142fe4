"""A suite's raw images, brought to where later commands look for them."""
