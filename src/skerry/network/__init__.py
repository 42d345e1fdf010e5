"""Networks: bridges, addresses, published ports, names. Knows no container and no image."""
