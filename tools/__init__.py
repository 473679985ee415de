"""Tools of the project's development: the documentation site and the checks of its prose."""
