set -u
tar -xzf .carry/build.tar.gz
export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
W=matrix=wgmma
prof() { # name kernel shape vary
ncu --set full -k regex:$2 -c 1 -f -o /tmp/$1 python3 bench/kernels.py --rounds 1 --only $2 --shapes $3 --vary "$4" > /tmp/$1.log 2>&1 || tail -5 /tmp/$1.log
ncu --import /tmp/$1.ncu-rep --page source --print-source sass --csv > $OUT/$1.csv 2>/tmp/err || tail -3 /tmp/err
ncu --import /tmp/$1.ncu-rep --page details > $OUT/$1.txt
}
prof enc128w 'forward_sweep_0' 8,128,128,1048576 "0:$W,workers=8,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=1,stages=3,blocks=132"
prof enc64w 'forward_sweep_0' 8,64,256,1048576 "0:$W,workers=16,worker_rows=16,row_groups=1,tile=64,unroll=4,min_blocks=1,stages=3,blocks=132"
prof enc32 'forward_sweep_0' 8,32,1024,131072 ""
prof dec64w 'forward_sweep_2' 8,64,256,1048576 "1:$W,workers=8,worker_rows=16,tile=128,unroll=4,min_blocks=2,stages=2,blocks=264"
