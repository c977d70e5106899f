"""The intermediate representation: types, facts, operators, text form and the specification of each stage."""
