"""What is done with mail that came in: accept it, parse it, file it. Pure, except through ports."""
