"""What can go wrong with a run that the person running it can mend; the messages say how."""


class RunError(Exception):
    """A run cannot begin or go on."""


class SettingsError(ValueError):
    """What was asked for makes no sense."""
