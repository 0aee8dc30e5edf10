"""Converters from public packages to lmcraft's data files, one file per catalog entry that needs one."""
