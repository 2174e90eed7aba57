set -x
tar -xzf .carry/build.tar.gz
export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
K="python3 bench/kernels.py"
E1=0:worker_rows=32,workers=4,row_groups=1
$K --rounds 5 --only forward_sweep --shapes 4,64,128,1048576 --vary "" "$E1,min_blocks=2" "$E1,min_blocks=3" "$E1,min_blocks=2,unroll=1" "$E1,min_blocks=2,tile=32" "$E1,min_blocks=2,exp=mufu" "1:worker_rows=32,workers=4,tile=128" "1:worker_rows=32,workers=4,tile=128,unroll=2" "1:unroll=2" "1:exp=mufu" "1:worker_rows=32,workers=4,tile=128,exp=mufu" > $OUT/d64.txt 2>&1
$K --rounds 5 --only forward_sweep --shapes 8,128,128,262144 --vary "" "0:workers=8,row_groups=1,min_blocks=1" "0:tile=32" "0:exp=mufu 1:exp=mufu" "1:workers=4,tile=64,min_blocks=2,stages=2" "0:unroll=1" "1:unroll=1" "1:unroll=2" > $OUT/d128.txt 2>&1
W=3:worker_rows=32
$K --rounds 3 --only sweep --shapes 8,8,2048,131072 8,16,2048,131072 8,16,1024,131072 8,32,1024,131072 --vary "" "$W,workers=8,tile=256" "$W,workers=4,tile=128,min_blocks=2" "$W,workers=4,tile=128,min_blocks=3" "3:workers=8,tile=128,min_blocks=2" "$W,workers=4,tile=128,min_blocks=2,unroll=2" "3:park=fast" "$W,workers=8,tile=256,park=fast" > $OUT/park.txt 2>&1
$K --rounds 3 --only sweep --shapes 8,32,2048,131072 8,64,256,131072 8,128,256,131072 > $OUT/wide.txt 2>&1
$K --rounds 3 --only sweep --dtype f32 --shapes 8,8,128,1048576 8,8,512,1048576 --vary "" "2:worker_rows=64,workers=4,row_groups=2" "2:worker_rows=32,workers=4,row_groups=4" "2:worker_rows=64,workers=4,row_groups=1" "2:worker_rows=64,workers=2,row_groups=1" > $OUT/f32.txt 2>&1
timeout 120 python3 bench/table.py --json $OUT/table.json > $OUT/table.txt 2>&1
cat $OUT/d64.txt $OUT/d128.txt | grep -v merge
