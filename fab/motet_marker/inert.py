"""A Flower bundle must name apps; this one must never be executed. Clients run the installed motet instead."""

raise RuntimeError("The Motet marker bundle holds no program. Start clients with `motet client start`.")
