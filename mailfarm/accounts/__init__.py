"""Who may do what: accounts, the credentials SMTP asks for, the tokens the API asks for."""
