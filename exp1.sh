set -u
tar -xzf .carry/build.tar.gz
export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
W=matrix=wgmma
K="python3 bench/kernels.py --rounds 5 --only forward_sweep"
$K --shapes 8,64,256,1048576 --vary "" "0:$W,workers=8,worker_rows=16,row_groups=2,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264 1:$W,workers=8,worker_rows=16,tile=128,unroll=4,min_blocks=2,stages=2,blocks=264" "0:$W,workers=8,worker_rows=16,row_groups=2,tile=128,unroll=4,min_blocks=2,stages=2,blocks=264 1:$W,workers=8,worker_rows=16,tile=128,unroll=2,min_blocks=2,stages=2,blocks=264"
$K --shapes 8,128,128,1048576 --vary "" "0:$W,workers=8,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=1,stages=3,blocks=132 1:$W,workers=4,worker_rows=16,tile=64,unroll=4,min_blocks=2,stages=2,blocks=264" "0:$W,workers=8,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=1,stages=3,blocks=132 1:$W,workers=4,worker_rows=16,tile=64,unroll=8,min_blocks=2,stages=2,blocks=264"
K="python3 bench/kernels.py --rounds 5 --only backward_sweep"
$K --shapes 4,64,128,1048576 --vary "" "2:$W,workers=8,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264 3:$W,workers=8,worker_rows=16,tile=128,unroll=2,min_blocks=1,stages=2,park=shared" "2:$W,workers=8,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=2,stages=2,blocks=264,exp=bits:5 3:$W,workers=8,worker_rows=16,tile=128,unroll=1,min_blocks=1,stages=2,park=shared" "2:$W,workers=4,worker_rows=32,row_groups=1,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264 3:$W,workers=4,worker_rows=16,tile=64,unroll=4,min_blocks=1,stages=2,park=shared"
K="python3 bench/kernels.py --rounds 7 --only forward"
$K --shapes 8,64,256,16384 --vary "" "0:$W,workers=8,worker_rows=16,row_groups=2,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264 1:$W,workers=8,worker_rows=16,tile=128,unroll=4,min_blocks=2,stages=2,blocks=264" "0:$W,workers=4,worker_rows=16,row_groups=4,tile=64,unroll=4,min_blocks=3,stages=3,blocks=396 1:$W,workers=8,worker_rows=16,tile=128,unroll=4,min_blocks=1,stages=2,blocks=132"
$K --shapes 8,32,256,16384 8,32,1024,16384 8,32,64,16384
$K --shapes 8,32,2048,131072 --vary "" "0:$W,workers=8,worker_rows=16,row_groups=16,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264" "0:$W,workers=16,worker_rows=16,row_groups=8,tile=128,unroll=4,min_blocks=1,stages=3,blocks=132"
prof() { # name kernel shape vary
ncu --set full -k regex:$2 -c 1 -f -o /tmp/$1 python3 bench/kernels.py --rounds 1 --only $2 --shapes $3 --vary "$4" > /tmp/$1.log 2>&1 || tail -5 /tmp/$1.log
ncu --import /tmp/$1.ncu-rep --page source --print-source sass --csv > $OUT/$1.csv 2>/tmp/err || tail -3 /tmp/err
ncu --import /tmp/$1.ncu-rep --page details > $OUT/$1.txt
}
prof sdec64 'forward_sweep_2' 8,64,256,16384 "1:$W,workers=8,worker_rows=16,tile=128,unroll=4,min_blocks=2,stages=2,blocks=264"
prof senc64 'forward_sweep_0' 8,64,256,16384 "0:$W,workers=8,worker_rows=16,row_groups=2,tile=64,unroll=4,min_blocks=2,stages=3,blocks=264"
prof senc32 'forward_sweep_0' 8,32,256,16384 ""
prof dec128w 'forward_sweep_2' 8,128,128,1048576 "1:$W,workers=4,worker_rows=16,tile=64,unroll=4,min_blocks=2,stages=2,blocks=264"
