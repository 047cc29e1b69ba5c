"""What `fastiqa bench` measures beside the operators, which bring their own samples: blocks and whole networks."""
