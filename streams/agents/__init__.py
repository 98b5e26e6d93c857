"""One file a role; the registry names them all."""
