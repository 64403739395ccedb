"""What runs inside our containers beside the services."""
