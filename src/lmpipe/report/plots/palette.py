"""The colours of plots: Okabe and Ito's palette for colour-blind readers, and inks that the report adapts to a page."""

# Okabe and Ito 2008, from cold to warm, so that an ordered sweep reads in order; black and yellow are left out because
# one vanishes on dark pages and the other on light ones.
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
COLD_TO_WARM = (BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE)

# Each number of series gets the members that lie farthest apart.
SPREAD = {
    1: (BLUE,),
    2: (BLUE, VERMILLION),
    3: (BLUE, GREEN, VERMILLION),
    4: (BLUE, SKY, ORANGE, VERMILLION),
    5: (BLUE, SKY, GREEN, ORANGE, VERMILLION),
}

# On a page of their own, plots are dark on white.
INK, GRID, PAPER = "#1b1f24", "#d8dce1", "#fffffe"

# What each colour becomes in the report, whose style sheet defines these for light pages, dark pages and paper.
ON_A_PAGE = {
    INK: "currentColor",
    GRID: "var(--grid)",
    PAPER: "none",
    BLUE: "var(--blue)",
    SKY: "var(--sky)",
    GREEN: "var(--green)",
    ORANGE: "var(--orange)",
    VERMILLION: "var(--vermillion)",
    PURPLE: "var(--purple)",
}


def palette(count: int) -> tuple[str, ...]:
    """Colours for `count` series; beyond six they repeat, and dashes tell the series apart."""
    return SPREAD.get(count, COLD_TO_WARM)
