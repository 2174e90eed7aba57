"""The parts of the simulated GPU; simulator.py, beside this folder, puts them together and says what it is and is not.

    parsing      PTX text as instructions and operands
    rounding     number formats that numpy does not have, and how hardware rounds to them
    memory       the bytes of global and shared memory, and which of them were written
    races        who touched which bytes of shared memory since the last barrier
    checks       what every access to memory is held to
    flights      registers that asynchronous products work on while their threads go on
    proxies      shared memory that such products read: what is sure to be there for them, what must stay
    threads      the registers of all threads, and access to operands
    arithmetic   instructions on registers alone
    transfers    instructions between registers, shared and global memory
    warps        instructions that the 32 lanes of a warp execute together
    descriptors  where the parts of a matrix in shared memory are
    warpgroups   instructions that four warps execute together: asynchronous products
"""

WARP = 32
WARPGROUP = 4 * WARP


class Fault(Exception):
    """What a GPU would get wrong or refuse."""
