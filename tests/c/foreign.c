// Compiled for other machines: what a loader must recognise and refuse.
int foreign(int a)
{
	return a + 1;
}
