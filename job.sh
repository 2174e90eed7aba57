tar -xzf .carry/build.tar.gz; export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
K="python3 bench/kernels.py --rounds 5"
W="matrix=wgmma,worker_rows=16,heads=1"
{
N="$W,park=none"
for s in 1 0.05; do
$K --scale $s --only "forward_" --shapes 8,32,2048,131072 --vary "" "1:$N,workers=16,tile=256,unroll=4,stages=2 0:unroll=2" "1:$N,workers=16,tile=256,unroll=2,stages=2 0:workers=16,row_groups=8,min_blocks=1" "1:worker_rows=16,workers=16,stages=2 0:stages=4,tile=32,unroll=2" "1:worker_rows=16,workers=16,stages=2,unroll=2 0:tile=128,stages=2" "1:worker_rows=16,workers=16,stages=2,exp=bits:8 0:matrix=mma,worker_rows=48,workers=4,row_groups=11,min_blocks=2" 
done
$K --only "forward_" --shapes 8,32,1024,131072 --vary "" "1:$N,workers=16,tile=256,unroll=4,stages=2" 
$K --only "backward_sweep_3" --shapes 8,64,256,262144 --vary "4:matrix=wgmma,worker_rows=16,tile=64,workers=4,row_groups=4,unroll=4,min_blocks=2,stages=2"
$K --only "backward_sweep_2" --shapes 8,32,512,131072 --vary "" "3:$N,workers=8,tile=128,unroll=2,stages=2,min_blocks=1"
} 2>&1 | sed 's/H8 //;s/matrix=wgmma,worker_rows=16,heads=1/W/g' | cut -c1-150
