"""Tools of the project itself: nothing in the package imports them."""
