"""Other people's environments behind `tasks.control.environment.Environment`.

One module a library, each with a function `make(name, **options)`; a library is
imported only when one of its environments is made.
"""
