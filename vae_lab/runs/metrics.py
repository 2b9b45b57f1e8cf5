"""The names of metrics: the split that each is measured on, and which direction is better."""

PARTS = ("train", "val", "test")
VALIDATION, TEST = "val/", "test/"


def direction(*, lowest: bool) -> str:
    """Return "lower is better" if `lowest`, else "higher is better"."""
    return "lower is better" if lowest else "higher is better"


def beside(metric: str) -> str:
    """Return the test metric that corresponds to a validation metric; "" for other metrics."""
    return f"{TEST}{metric.removeprefix(VALIDATION)}" if metric.startswith(VALIDATION) else ""


def caution(metric: str) -> str:
    """Return a warning if runs are ranked by a test metric; "" otherwise."""
    if part_of(metric) != "test":
        return ""
    remedy = metric.replace("test", "val", 1)
    return (
        f"{metric} is measured on the test set, and selecting runs by it biases their test results; select by {remedy},"
        " and report the test result of the selected run."
    )


def part_of(metric: str) -> str:
    """Return the split that a metric is measured on: train, val or test; "" if its name has none of them."""
    part = metric.partition("/")[0].removeprefix("evaluation-")
    return part if part in PARTS else ""
