"""`python -m vlm_prep` is `vlm-prep`, also where a venv's scripts are not on the path."""

from vlm_prep.cli.main import main

if __name__ == "__main__":
    main()
