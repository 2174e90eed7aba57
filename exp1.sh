set -u
tar -xzf .carry/build.tar.gz
export LD_LIBRARY_PATH=$(python3 -c 'import torch, os; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
export PYTHONUNBUFFERED=1
mkdir -p $OUT/tables
python3 bench/tune_shipped.py $OUT/tables --budget 6s --time 330s > $OUT/tune.txt 2>&1
tail -3 $OUT/tune.txt
python3 bench/kernels.py --rounds 5 --only forward_merge --shapes 8,32,1024,131072 8,64,256,1048576 8,32,256,16384
