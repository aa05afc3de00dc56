"""clfast in libraries of other people: one package a library, which is imported by its name.

Nothing is imported here, and none of the packages imports its library before it has to.
"""
