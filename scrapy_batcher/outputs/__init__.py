"""What comes out: feeds, bodies, archives, of which every byte stands for a settled target."""
