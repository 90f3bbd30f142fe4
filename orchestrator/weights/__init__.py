"""The embedded backbone `vit_mini`: its architecture, its pre-training and its probe."""
