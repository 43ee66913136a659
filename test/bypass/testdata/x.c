/* A trusted library that does nothing. */
int x(void) { return 0; }
