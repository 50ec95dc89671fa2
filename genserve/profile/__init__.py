"""Measuring what stages, steps and changes of course cost on the devices at hand; not where the table is used."""
