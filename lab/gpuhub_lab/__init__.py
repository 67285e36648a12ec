"""The lab: emulated hosts, a real control plane, doubles of what cannot be had."""
