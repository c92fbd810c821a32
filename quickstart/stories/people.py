"""Names of people, short and long, with the pronoun that a story may use for them."""

_HE = """
    Aaron Abdul Adam Adrian Ahmed Akira Alan Albert Alejandro Alexander Ali Amir Anders Andre Andrew Anil Anthony
    Antonio Arjun Arthur Ben Benjamin Bill Bob Boris Brandon Brian Bruno Caleb Carl Carlos Charles Christopher
    Colin Connor Cyrus Daisuke Dan Daniel David Dennis Diego Dmitri Dominic Duc Dylan Edgar Eduardo Edward Eli
    Elias Elijah Emil Eric Ethan Fabian Felix Fernando Frank Gabriel George Gerald Giovanni Gordon Gus Harold Harry
    Haruto Hassan Hector Henry Hugo Ian Ibrahim Igor Isaac Ivan Jack Jackson Jacob Jake James Jason Javier Jeremy
    Jim Joe Joel John Jonas Jonathan Jorge Jose Joseph Joshua Juan Julian Kaito Kamal Karim Karl Keith Ken Kenji
    Kevin Kofi Kurt Kyle Lars Leo Leon Leonardo Liam Logan Lorenzo Louis Luca Lucas Luis Lukas Magnus Malik Marco
    Mario Martin Mateo Matthew Max Michael Miguel Milan Milo Mohamed Muhammad Nathan Nathaniel Neil Nicholas Nick
    Noah Oliver Omar Oscar Otto Pablo Paolo Patrick Paul Pedro Peter Philip Quentin Rafael Raj Ralph Raul Ravi
    Ricardo Richard Robert Roberto Rohan Roy Ruben Ryan Samuel Sanjay Sean Sebastian Sergei Simon Stefan Steven
    Sven Takeshi Tariq Theo Theodore Thomas Tim Timothy Tobias Tom Tomas Tony Victor Vikram Vincent William Winston
    Xavier Yusuf Zachary
"""
_SHE = """
    Abby Abigail Ada Adele Agnes Aiko Aisha Alexandra Alice Alicia Alina Amanda Amara Amelia Amina Amy
    Ana Andrea Angela Anita Ann Anna Annika Anya Asha Astrid Audrey Ava Aylin Barbara Beatrice Bettina Bianca
    Brenda Bridget Camila Carla Carmen Caroline Catherine Cecilia Celia Charlotte Chloe Christina Claire Clara Cora
    Daniela Daria Deborah Delia Deepa Diana Dina Dolores Dora Edith Eleanor Elena Elif Elise Elizabeth Ella Ellen
    Elsa Emily Emma Erika Esther Eva Evelyn Farah Fatima Felicia Fernanda Fiona Florence Frances Francesca Freya
    Gabriela Georgia Gina Gloria Greta Hana Hanna Harriet Heather Heidi Helen Helena Ida Imani Ines Ingrid Irene
    Isabella Ivy Jade Jamila Jane Janet Jasmine Jenna Jennifer Jessica Jill Joan Joanna Johanna Josephine Julia
    Juliet Karen Kate Katherine Kathleen Katya Keiko Khadija Kim Laila Lara Laura Lauren Layla Lea Leah Leticia
    Lila Lily Linda Lisa Louise Lucia Lucy Luna Lydia Mabel Maddie Margaret Maria Mariana Marie Marina Marta Mary
    Matilda Maya Mei Melanie Mia Michelle Mila Miriam Molly Monica Nadia Naomi Natalia Nia Nicole Nina Nora Noriko
    Olivia Olga Pamela Patricia Paula Penelope Petra Phoebe Priya Rachel Ramona Raquel Rebecca Renata Rhea Rita
    Rosa Rosalind Ruth Sabine Salma Samantha Samira Sandra Sara Sarah Scarlett Selena Shira Silvia Sofia Sonia
    Sophie Stella Stephanie Susan Sylvia Tamara Tara Tatiana Teresa Tina Uma Ursula Valentina Valeria Vanessa Vera
    Victoria Viola Virginia Vivian Wanda Wendy Ximena Yara Yasmin Yolanda Yuki Yvonne Zahra Zara Zoe
"""
_EITHER = """
    Alex Chen Chris Jaime Jean Jordan Kelly Lin Linh Ming Nikita Quinn Robin Sam Wei
"""

PRONOUNS = ("he", "she")
NAMES = (
    *((name, ("he",)) for name in _HE.split()),
    *((name, ("she",)) for name in _SHE.split()),
    *((name, PRONOUNS) for name in _EITHER.split()),
)
