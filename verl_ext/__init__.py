"""The plugin: multi-attempt episodes in verl's PPO. :mod:`verl_ext.plugin` registers the parts with verl."""
