"""What computes the encoder: one interface, `EncoderKernels`, and its implementations."""
