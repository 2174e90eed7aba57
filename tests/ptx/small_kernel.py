"""PTX around a few instructions under test: thread t has its word of an array in %rd3 and its word of shared memory in %rd5; the array itself is %rd1, shared memory
%rd4, t is %r1."""

FRAME = """
.version 8.1
.target sm_90a
.address_size 64
.extern .shared .align ALIGNMENT .b8 memory[];
.visible .entry kernel(
	PARAMETERS
)
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<40>;
	.reg .b64 	%rd<20>;
	ld.param.b64 	%rd1, [kernel_param_0];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	mov.b64 	%rd4, memory;
	add.s64 	%rd5, %rd4, %rd2;
BODY
	ret;
}
"""


def module(body, parameters, alignment=16):
    """`alignment`: of shared memory, in bytes."""
    return FRAME.replace("ALIGNMENT", str(alignment)).replace("PARAMETERS", ",\n\t".join(parameters)).replace("BODY", body)
