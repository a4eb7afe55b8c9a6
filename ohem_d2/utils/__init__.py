"""What several rooms share: wording of messages, files written whole, headers of images, checkpoints."""
