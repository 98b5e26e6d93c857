"""What runs a role in Faust: the contract of a role, its runner, and the app."""
