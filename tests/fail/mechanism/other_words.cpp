// expect: a reason nobody gives
int main() { return undeclared; }
