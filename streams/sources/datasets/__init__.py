"""Public data sets as the project's own events: each adapter yields what a producer would have sent."""
