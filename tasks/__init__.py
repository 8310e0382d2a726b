"""What models are evolved to do. Every task meets `eggroll.Task`."""
