"""A measure that ends its worker, in a module that workers load at once."""

import os
import signal


def deadly(a):
    if a == 3.0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * a
