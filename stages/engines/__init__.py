"""What generates and what scores: token ids in, token ids and numbers out."""
