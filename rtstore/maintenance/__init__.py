"""Operations on a whole runtime directory: create, upgrade, back up, rebuild, examine."""
