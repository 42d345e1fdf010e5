#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    int limit = argc > 1 ? atoi(argv[1]) : 30;

    for (int n = 2; n <= limit; n++) {
        int d = 2;
        while (d * d <= n && n % d)
            d++;
        if (d * d > n)
            printf("%d\n", n);
    }
    return 0;
}
