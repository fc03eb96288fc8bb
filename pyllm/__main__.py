"""`python -m pyllm` is `pyllm`."""

from pyllm.cli import main

if __name__ == "__main__":
    main()
