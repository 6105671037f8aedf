"""What the phantom is made of: its anatomy, tissue, tubes and lesions, and how a scanner shows them."""
