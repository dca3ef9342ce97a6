"""One check a module; `acceptance.command` says what it must have."""
