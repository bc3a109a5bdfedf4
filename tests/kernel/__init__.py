"""The suite on a kernel that has ``/dev/vpoll`` and EFD_VPOLL: ``make test-kernel``.

Debian's own kernel boots in a QEMU machine under software emulation.  The machine has
two modules that no stock kernel has (vpoll-dkms' ``/dev/vpoll`` and ``efd_vpoll.c`` of
this folder), sees the host's files read-only under a layer in memory, has no network
device, and runs the tests of the backends with the Python of the working tree.
"""
