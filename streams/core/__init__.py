"""Pure logic: no Faust, no torch, no clock, no environment. Imports schemas only."""
