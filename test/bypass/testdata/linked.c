/* A trusted program that needs libx.so, which it looks for beside itself (RUNPATH $ORIGIN). */
int x(void);
int main(void) { return x(); }
