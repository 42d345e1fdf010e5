"""The one door to Linux: every system call, ioctl and cgroup write goes through here."""
