"""The intermediate representation: types, facts, operators, text form, stage specifications."""
