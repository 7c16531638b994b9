"""What HERO is compared with."""
