"""The paper: LaTeX whose numbers, tables and figures come from the results of the experiments."""
